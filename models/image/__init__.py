"""What methods over pictures are made of: views, patches, masks, the encoders' own ways."""
