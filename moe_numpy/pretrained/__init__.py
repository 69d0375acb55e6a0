"""Published models: their files, as published."""
