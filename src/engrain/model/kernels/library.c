/* What the library was made from. */
#include "common.h"

EXPORT const char *engrain_sources(void) { return ENGRAIN_SOURCES; }
