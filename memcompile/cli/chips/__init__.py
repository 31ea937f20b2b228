"""What commands do with emulated chips: calibrate them, follow their life, tune and count them."""
