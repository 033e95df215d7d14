"""What the venues share: facts, connections, limits, and the parts of an adapter that do not depend on a venue's words."""
