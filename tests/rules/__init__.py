"""What Home Assistant's hassfest and HACS require of a custom integration's files.

hassfest is script/hassfest of home-assistant/core; it is not part of the installed
package, so its rules are written here again. HACS's rules are those of its
utils/validate.py and of the checks that its action runs.
"""
