"""A published LiteRT version as a folder for an Android app, and phones that are connected by adb."""
