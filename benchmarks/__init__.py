"""Speed against other engines, and against our own older self, measured in pairs."""
