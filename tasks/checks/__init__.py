"""What validate is made of: what is expected of any data, how it is asked, and what has leaked."""
