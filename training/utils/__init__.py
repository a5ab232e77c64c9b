"""What a run needs beside the model: ranks, records of what happened."""
