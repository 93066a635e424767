"""What tasks under trio need beyond it: values to wait for, services' tasks, plain exceptions."""
