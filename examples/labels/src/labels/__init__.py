"""The custom task print_label of a Product-Live Data Factory."""
