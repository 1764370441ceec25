"""HTML and SVG elements; texts and attributes are escaped when they are written."""

from xml.etree.ElementTree import Element, tostring

Child = Element | str


def tag(name: str, *children: Child, **attributes: object) -> Element:
    """Return an element.

    Args:
        name: Of the element.
        children: Elements and texts, in order.
        attributes: `class_` stands for class, `stroke_width` for stroke-width.
    """
    named = {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()}
    element = Element(name, named)
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + child
        else:
            element.text = (element.text or "") + child
    return element


def document(root: Element) -> str:
    """Return a whole page's text."""
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"
