"""What every libp2p node serves: identify and ping."""
