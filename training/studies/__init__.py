"""What trained networks are asked: how good they are, and which settings suit them."""
