"""A page in the browser: draw on a picture, have it painted anew, watch the canvas fill."""

from mage_kit.demo_page.page import build_page, serve

__all__ = ["build_page", "serve"]
