#include "loader.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

#include "../os.h"
#include "../status.h"
#include "stopwatch.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace seer::vulkan {
namespace {

// The loader stays loaded: drivers leave threads and thread-local destructors behind that a dlclose would unmap.
PFN_vkGetInstanceProcAddr load_library() {
#if defined(_WIN32)
  if (HMODULE module = LoadLibraryA("vulkan-1.dll"))
    return reinterpret_cast<PFN_vkGetInstanceProcAddr>(
        reinterpret_cast<void *>(GetProcAddress(module, "vkGetInstanceProcAddr")));
#else
#if defined(__APPLE__)
  constexpr const char *names[] = {"libvulkan.1.dylib", "libvulkan.dylib", "libMoltenVK.dylib"};
#else
  constexpr const char *names[] = {"libvulkan.so.1", "libvulkan.so"};
#endif
  for (const char *name : names)
    if (void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL))
      return reinterpret_cast<PFN_vkGetInstanceProcAddr>(dlsym(library, "vkGetInstanceProcAddr"));
#endif
  return nullptr;
}

PFN_vkGetInstanceProcAddr loader() {
  static const PFN_vkGetInstanceProcAddr get = load_library();
  SEER_REQUIRE(get, Status::unsupported, "backend vulkan: there is no Vulkan loader (libvulkan.so.1) on this machine");
  return get;
}

template <class Properties, class Name>
bool contains(const std::vector<Properties> &all, Name Properties::*name, const char *wanted) {
  for (const Properties &p : all)
    if (std::strcmp(p.*name, wanted) == 0) return true;
  return false;
}

// 0: off. 1: core checks. 2: hazards between commands as well.
int validation_level() {
  const char *value = std::getenv("SEER_VK_VALIDATE");
  return value ? std::atoi(value) : 0;
}

}  // namespace

struct Instance::Messages {
  std::mutex mutex;
  std::string text;

  static VKAPI_ATTR VkBool32 VKAPI_CALL add(VkDebugUtilsMessageSeverityFlagBitsEXT, VkDebugUtilsMessageTypeFlagsEXT,
                                            const VkDebugUtilsMessengerCallbackDataEXT *data, void *user) {
    auto &self = *static_cast<Messages *>(user);
    std::lock_guard lock(self.mutex);
    if (self.text.size() < 16384) self.text += std::string(data->pMessage ? data->pMessage : "?") + "\n";
    return VK_FALSE;
  }
};

std::shared_ptr<Instance> Instance::get() {
  static std::mutex mutex;
  static auto &shared = *new std::shared_ptr<Instance>;  // not destroyed at exit, when drivers may be gone already
  std::lock_guard lock(mutex);
  if (shared && shared->process_ == os::process_id()) return shared;
  std::shared_ptr<Instance> instance(new Instance);
  const Stopwatch watch;
  instance->create();
  instance->made_ms_ = watch.total_ms();
  shared = instance;
  return instance;
}

std::shared_ptr<Instance> Instance::adopt(PFN_vkGetInstanceProcAddr proc, VkInstance instance, uint32_t api_version) {
  std::shared_ptr<Instance> adopted(new Instance);
  adopted->process_ = os::process_id();
  adopted->get_proc_ = proc;
  adopted->instance_ = instance;
  adopted->api_version_ = api_version;
  adopted->load_functions();
  return adopted;
}

PFN_vkVoidFunction Instance::proc(const char *name) const { return get_proc_(instance_, name); }

void Instance::load_functions() {
#define SEER_VK_LOAD_INSTANCE(name)                     \
  fn_.name = reinterpret_cast<PFN_##name>(proc(#name)); \
  SEER_REQUIRE(fn_.name, Status::unsupported, "backend vulkan: the Vulkan loader lacks " #name);
  SEER_VK_INSTANCE_FUNCTIONS(SEER_VK_LOAD_INSTANCE)
}

void Instance::create() {
  process_ = os::process_id();
  own_ = true;
  const PFN_vkGetInstanceProcAddr proc_of = get_proc_ = loader();
#define SEER_VK_LOAD_GLOBAL(name)                                          \
  const auto name = reinterpret_cast<PFN_##name>(proc_of(nullptr, #name)); \
  SEER_REQUIRE(name, Status::unsupported, "backend vulkan: the Vulkan loader lacks " #name);
  SEER_VK_GLOBAL_FUNCTIONS(SEER_VK_LOAD_GLOBAL)
  // Vulkan 1.0 loaders lack this one.
  const auto enumerate_version =
      reinterpret_cast<PFN_vkEnumerateInstanceVersion>(proc_of(nullptr, "vkEnumerateInstanceVersion"));
  uint32_t version = VK_API_VERSION_1_0;
  if (enumerate_version) enumerate_version(&version);
  SEER_REQUIRE(version >= VK_API_VERSION_1_1, Status::unsupported,
               "backend vulkan: the Vulkan loader is older than Vulkan 1.1");
  api_version_ = std::min<uint32_t>(version, VK_API_VERSION_1_3);

  uint32_t count = 0;
  vkEnumerateInstanceExtensionProperties(nullptr, &count, nullptr);
  std::vector<VkExtensionProperties> offered(count);
  vkEnumerateInstanceExtensionProperties(nullptr, &count, offered.data());
  offered.resize(count);

  std::vector<const char *> extensions, layers;
  VkInstanceCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
  constexpr const char *portability = "VK_KHR_portability_enumeration";  // MoltenVK is found by those who ask for it
  if (contains(offered, &VkExtensionProperties::extensionName, portability)) {
    extensions.push_back(portability);
    info.flags |= 1;  // VK_INSTANCE_CREATE_ENUMERATE_PORTABILITY_BIT_KHR
  }

  const int validation = validation_level();
  VkValidationFeaturesEXT features{};
  constexpr VkValidationFeatureEnableEXT hazards[] = {VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT};
  if (validation > 0) {
    constexpr const char *layer = "VK_LAYER_KHRONOS_validation";
    vkEnumerateInstanceLayerProperties(&count, nullptr);
    std::vector<VkLayerProperties> known(count);
    vkEnumerateInstanceLayerProperties(&count, known.data());
    known.resize(count);
    SEER_REQUIRE(contains(known, &VkLayerProperties::layerName, layer), Status::unsupported,
                 "backend vulkan: SEER_VK_VALIDATE is set, but %s is not installed", layer);
    layers.push_back(layer);
    extensions.push_back(VK_EXT_DEBUG_UTILS_EXTENSION_NAME);
    if (validation > 1) {
      features.sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT;
      features.enabledValidationFeatureCount = 1;
      features.pEnabledValidationFeatures = hazards;
      info.pNext = &features;
      extensions.push_back(VK_EXT_VALIDATION_FEATURES_EXTENSION_NAME);
    }
  }

  VkApplicationInfo application{};
  application.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO;
  application.pEngineName = "seerattn";
  application.apiVersion = api_version_;
  info.pApplicationInfo = &application;
  info.enabledLayerCount = uint32_t(layers.size());
  info.ppEnabledLayerNames = layers.data();
  info.enabledExtensionCount = uint32_t(extensions.size());
  info.ppEnabledExtensionNames = extensions.data();
  const VkResult result = vkCreateInstance(&info, nullptr, &instance_);
  SEER_REQUIRE(result == VK_SUCCESS, Status::unsupported, "backend vulkan: vkCreateInstance gives %s",
               result_name(result));

  load_functions();

  if (validation > 0) {
    messages_ = std::make_unique<Messages>();
    VkDebugUtilsMessengerCreateInfoEXT messenger{};
    messenger.sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT;
    messenger.messageSeverity =
        VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
    messenger.messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT;
    messenger.pfnUserCallback = Messages::add;
    messenger.pUserData = messages_.get();
    const auto create_messenger =
        reinterpret_cast<PFN_vkCreateDebugUtilsMessengerEXT>(proc("vkCreateDebugUtilsMessengerEXT"));
    SEER_REQUIRE(create_messenger && create_messenger(instance_, &messenger, nullptr, &messenger_) == VK_SUCCESS,
                 Status::unsupported, "backend vulkan: the validation layer's messages cannot be had");
  }

  fn_.vkEnumeratePhysicalDevices(instance_, &count, nullptr);
  std::vector<VkPhysicalDevice> all(count);
  fn_.vkEnumeratePhysicalDevices(instance_, &count, all.data());
  all.resize(count);
  for (VkPhysicalDevice device : all) {
    VkPhysicalDeviceProperties properties;
    fn_.vkGetPhysicalDeviceProperties(device, &properties);
    if (properties.apiVersion >= VK_API_VERSION_1_1) devices_.push_back(device);
  }
}

Instance::~Instance() {
  if (!instance_ || !own_) return;
  if (process_ != os::process_id()) return;  // a forked child: its parent's threads are not there
  if (messenger_)
    reinterpret_cast<PFN_vkDestroyDebugUtilsMessengerEXT>(proc("vkDestroyDebugUtilsMessengerEXT"))(instance_,
                                                                                                   messenger_, nullptr);
  if (fn_.vkDestroyInstance) fn_.vkDestroyInstance(instance_, nullptr);
}

DeviceFunctions Instance::load_device(VkDevice device) const {
  DeviceFunctions fn;
#define SEER_VK_LOAD_OPTIONAL(name) fn.name = reinterpret_cast<PFN_##name>(fn_.vkGetDeviceProcAddr(device, #name));
#define SEER_VK_LOAD_DEVICE(name) \
  SEER_VK_LOAD_OPTIONAL(name)     \
  SEER_REQUIRE(fn.name, Status::unsupported, "backend vulkan: the driver lacks " #name);
  SEER_VK_DEVICE_FUNCTIONS(SEER_VK_LOAD_DEVICE)
  SEER_VK_OPTIONAL_DEVICE_FUNCTIONS(SEER_VK_LOAD_OPTIONAL)
  return fn;
}

std::string Instance::take_validation_messages() {
  if (!messages_) return {};
  std::lock_guard lock(messages_->mutex);
  return std::exchange(messages_->text, {});
}

const char *result_name(VkResult result) {
  switch (result) {
#define SEER_VK_RESULT(name) \
  case name: return #name;
    SEER_VK_RESULT(VK_SUCCESS)
    SEER_VK_RESULT(VK_NOT_READY)
    SEER_VK_RESULT(VK_TIMEOUT)
    SEER_VK_RESULT(VK_INCOMPLETE)
    SEER_VK_RESULT(VK_ERROR_OUT_OF_HOST_MEMORY)
    SEER_VK_RESULT(VK_ERROR_OUT_OF_DEVICE_MEMORY)
    SEER_VK_RESULT(VK_ERROR_INITIALIZATION_FAILED)
    SEER_VK_RESULT(VK_ERROR_DEVICE_LOST)
    SEER_VK_RESULT(VK_ERROR_MEMORY_MAP_FAILED)
    SEER_VK_RESULT(VK_ERROR_LAYER_NOT_PRESENT)
    SEER_VK_RESULT(VK_ERROR_EXTENSION_NOT_PRESENT)
    SEER_VK_RESULT(VK_ERROR_FEATURE_NOT_PRESENT)
    SEER_VK_RESULT(VK_ERROR_INCOMPATIBLE_DRIVER)
    SEER_VK_RESULT(VK_ERROR_TOO_MANY_OBJECTS)
    SEER_VK_RESULT(VK_ERROR_FRAGMENTED_POOL)
    SEER_VK_RESULT(VK_ERROR_OUT_OF_POOL_MEMORY)
    SEER_VK_RESULT(VK_ERROR_INVALID_SHADER_NV)
#undef SEER_VK_RESULT
    default: return "an unknown result";
  }
}

}  // namespace seer::vulkan
