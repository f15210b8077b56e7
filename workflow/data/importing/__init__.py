"""Records of other layouts: `read` finds them in files, `layouts` turns them into ours."""
