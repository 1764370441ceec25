"""The frozen, validated records that all other rooms exchange; no library's types are in them."""
