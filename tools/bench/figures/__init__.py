"""From readings to figures: medians, ratios, JSON lines, a picture."""
