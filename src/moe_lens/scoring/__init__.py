"""What an expert is worth: criteria from one pass, from weights alone, and by ablation."""
