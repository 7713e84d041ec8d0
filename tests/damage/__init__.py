"""Full disks, damaged files, files that go away: nothing is lost in silence."""
