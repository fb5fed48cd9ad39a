"""What an update is made of: the optimizer, gradients averaged over ranks, what is measured of them."""
