"""Messages, lessons, examples, templates, streams: what is learned, as data."""
