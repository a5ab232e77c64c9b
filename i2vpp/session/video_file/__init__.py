"""Files of encoded video: exact random access to their frames, and which of them are damaged or missing."""
