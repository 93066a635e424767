"""What calls come to, counted, and as spans of OpenTelemetry."""
