"""Reading data from disk: what the library, the annotator, training and evaluation share."""
