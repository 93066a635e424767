"""Finding peers by a topic, whatever there is to ask: `node.discovery`."""
