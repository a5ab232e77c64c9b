"""What the page asks for and is told: routes, answers, events, security."""
