"""Which pretrained model to start from: scores, history, and the posterior that joins them."""
