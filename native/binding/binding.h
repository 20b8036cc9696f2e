// Everything native/binding uses, as one precompiled header.
#pragma once

#include <napi.h>

#include <functional>
#include <map>
#include <unordered_map>

#include "core/torch.h"
