"""What goes in: photos, how they are decoded and preprocessed, and data sets of them."""
