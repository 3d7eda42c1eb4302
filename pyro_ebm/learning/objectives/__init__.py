"""What is minimised in learning."""
