"""The data plane: what carries packets between the machines of a lab, and spoils them."""
