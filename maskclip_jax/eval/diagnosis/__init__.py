"""What limits a model: oracles, statistics, and a page that shows them."""
