/* Copyright (c) The Sallyport authors
 * Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
 *
 * A sleep that never takes longer than a twentieth of a second: stands first on the PATH of a chamber, so that the
 * guards look every so often instead of once a second. What they decide depends on the time since boot, not on this.
 */
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 0;
    if (seconds > 0.05) seconds = 0.05;
    struct timespec wait = {0, (long)(seconds * 1e9)};
    return nanosleep(&wait, NULL) != 0;
}
