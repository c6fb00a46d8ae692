"""The only package that speaks to Product-Live."""
