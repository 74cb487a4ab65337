"""What a curriculum says of each batch, in plain Python: standard library and numpy only."""
