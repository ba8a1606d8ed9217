/* Says the version of the library, and that of the header. */
#include <machnet.h>
#include <stdio.h>

int main(void) {
  printf("%s %d.%d.%d\n", machnet_x_version(), MACHNET_X_VERSION_MAJOR, MACHNET_X_VERSION_MINOR,
         MACHNET_X_VERSION_PATCH);
  return 0;
}
