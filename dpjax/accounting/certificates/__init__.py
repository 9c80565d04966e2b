"""What a proven bound is made of: dominating laws, and all rounding."""
