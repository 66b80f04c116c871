"""Networks that people have, in the builds that people make of them. See ../README.md."""
