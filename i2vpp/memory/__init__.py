"""The memory of a video: the store (`bank`) and the policies that select from it (`selection`)."""
