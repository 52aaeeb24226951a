// What some drivers say they can do and cannot: as data, for what no test on the device can find out in time (crashes),
// reliably (now and then wrong) or cheaply (a thousand times slower).
#pragma once
#include "caps.h"

namespace seer::vulkan {

// Takes from caps what is known not to work, and says so in caps.denied. SEER_VK_DENY=0 takes nothing.
void deny_known_faults(Caps &caps);

}  // namespace seer::vulkan
