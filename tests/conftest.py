"""What all tests share."""

from pathlib import Path

import ansible.module_utils

# Plugins import their shared code as Ansible gives it to them: from ansible.module_utils.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "plugins" / "module_utils"))
