"""What people see: live progress, tables, the closing screen."""
