"""What is remembered of a video: the store (`bank`) and the policies that read it (`selection`)."""
