"""What each stage does, shared by both methods; pecan.py and mocan.py only put the stages in order."""
