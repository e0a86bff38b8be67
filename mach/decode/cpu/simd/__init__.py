"""Vector instructions for the scan, written by LLVM intrinsics."""
