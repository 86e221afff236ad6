"""The tables of the papers that this project grew from, beside what it measures on the same networks."""
