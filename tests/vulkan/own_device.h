// A program's own Vulkan: instance and device, made without the library and then imported by it. Whoever includes this
// need not be linked with the library, nor with Vulkan's loader.
#pragma once
#include <dlfcn.h>
#include <seerattn/seerattn_vulkan.h>

#include <stdexcept>
#include <string>
#include <vector>

#define VK_NO_PROTOTYPES
#include <vulkan/vulkan_core.h>

namespace foreign {

// Made step by step, in the order of the functions; recommend may be left out. They throw what failed. Destroying is
// the owner's affair.
class OwnDevice {
public:
  explicit OwnDevice(uint32_t version) : api_version(version) {}
  OwnDevice(const OwnDevice &) = delete;
  OwnDevice &operator=(const OwnDevice &) = delete;

  void load() {
    void *library = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error("no libvulkan.so.1");
    proc = reinterpret_cast<PFN_vkGetInstanceProcAddr>(dlsym(library, "vkGetInstanceProcAddr"));
  }
  // `info` has layers, extensions and what they are told.
  void make_instance(VkInstanceCreateInfo info = {}) {
    VkApplicationInfo application = {};
    application.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO;
    application.apiVersion = api_version;
    info.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
    info.pApplicationInfo = &application;
    check(get<PFN_vkCreateInstance>("vkCreateInstance")(&info, nullptr, &instance), "vkCreateInstance");
  }
  // The first physical device, its first queue family that computes, and an empty chain of features that ends with
  // `newer`, structs that older headers do not have.
  void pick(void *newer = nullptr) {
    uint32_t count = 1;
    const VkResult listed =
        get<PFN_vkEnumeratePhysicalDevices>("vkEnumeratePhysicalDevices")(instance, &count, &physical);
    if (listed != VK_INCOMPLETE) check(listed, "vkEnumeratePhysicalDevices");
    if (count == 0) throw std::runtime_error("no Vulkan device");
    const auto query = get<PFN_vkGetPhysicalDeviceQueueFamilyProperties>("vkGetPhysicalDeviceQueueFamilyProperties");
    query(physical, &count, nullptr);
    std::vector<VkQueueFamilyProperties> families(count);
    query(physical, &count, families.data());
    while (!(families.at(family).queueFlags & VK_QUEUE_COMPUTE_BIT)) family++;
    features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    features11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES;
    features12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
    features13.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES;
    if (api_version < VK_API_VERSION_1_3) return;
    features.pNext = &features11;
    features11.pNext = &features12;
    features12.pNext = &features13;
    features13.pNext = newer;
  }
  // Enables what the library, whose seer_vulkan_recommend this is, would have.
  void recommend(decltype(&seer_vulkan_recommend) library) {
    uint32_t count = 0;
    const auto ask = [&](const char **names) {
      if (library(reinterpret_cast<void *>(proc), instance, physical, api_version, &features, names, &count) != SEER_OK)
        throw std::runtime_error("seer_vulkan_recommend");
    };
    ask(nullptr);
    extensions.resize(count);
    ask(extensions.data());
  }
  void make_device() {
    const float priority = 1;
    VkDeviceQueueCreateInfo queues = {};
    queues.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
    queues.queueFamilyIndex = family;
    queues.queueCount = 1;
    queues.pQueuePriorities = &priority;
    VkDeviceCreateInfo info = {};
    info.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
    info.pNext = &features;
    info.queueCreateInfoCount = 1;
    info.pQueueCreateInfos = &queues;
    info.enabledExtensionCount = uint32_t(extensions.size());
    info.ppEnabledExtensionNames = extensions.data();
    check(get<PFN_vkCreateDevice>("vkCreateDevice")(physical, &info, nullptr, &device), "vkCreateDevice");
  }
  // As the device was made, its queue to be found by the library.
  seer_vulkan_import import() const {
    seer_vulkan_import i = SEER_INIT(seer_vulkan_import);
    i.api_version = api_version;
    i.get_instance_proc_addr = reinterpret_cast<void *>(proc);
    i.instance = instance;
    i.physical_device = physical;
    i.device = device;
    i.queue_family = family;
    i.extension_count = uint32_t(extensions.size());
    i.extensions = extensions.data();
    i.features = &features;
    return i;
  }
  template <class F>
  F get(const char *name) const {
    return reinterpret_cast<F>(proc(instance, name));
  }
  static void check(VkResult result, const char *what) {
    if (result != VK_SUCCESS) throw std::runtime_error(std::string(what) + " gave " + std::to_string(result));
  }

  const uint32_t api_version;
  PFN_vkGetInstanceProcAddr proc = nullptr;
  VkInstance instance = VK_NULL_HANDLE;
  VkPhysicalDevice physical = VK_NULL_HANDLE;
  VkDevice device = VK_NULL_HANDLE;
  uint32_t family = 0;
  std::vector<const char *> extensions;
  // What is enabled, one chain.
  VkPhysicalDeviceFeatures2 features = {};
  VkPhysicalDeviceVulkan11Features features11 = {};
  VkPhysicalDeviceVulkan12Features features12 = {};
  VkPhysicalDeviceVulkan13Features features13 = {};
};

}  // namespace foreign
