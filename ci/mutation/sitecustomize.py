"""Has programs that tests start tell what they call, while mutmut asks for it."""

import os

if os.environ.get("MUTANT_UNDER_TEST") == "stats":
    from calls_elsewhere import tell
    from mutmut import stats

    stats.record_trampoline_hit = tell
