"""What looks on while an energy learns."""
