"""SAM's prompt encoder and mask decoder, with memory prompts."""
