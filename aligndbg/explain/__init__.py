"""Why a fault is one."""
