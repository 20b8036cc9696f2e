// Precompiled header of native/binding.
#pragma once

#include <napi.h>

#include <functional>
#include <map>
#include <unordered_map>

#include "core/torch.h"
