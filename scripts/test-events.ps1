#!/usr/bin/env pwsh
# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
#
# Do the requests to a gateway become events in Kafka, each exactly one? It
# sends 111 requests, which are metered like any others, and looks for their
# events by the X-Request-Id of the answers, so other traffic is no trouble.
#
#   $env:API_KEY = '...'; pwsh scripts/test-events.ps1
#
# API_KEY         a key of the gateway; needed, and never shown
# GATEWAY_URL     the gateway (http://localhost:8080)
# TEST_PATH       what is asked for (/)
# HEALTH_PATH     what says whether the gateway is there (/healthz)
# KAFKA_BROKERS   HOST:PORT,… (localhost:9092)
# KAFKA_TOPIC     the events' topic (usage-events)
# KAFKA_OPTIONS   properties for kcat, NAME=VALUE with spaces between; a -X
#                 before each may be there or not. They stay off command lines.
# TEST_WAIT       seconds that events may take (15)
#
# Exit status: 0 all steps passed, 1 some failed, 2 wrong use. Needs
# PowerShell 7 and kcat. test-events.sh is the same for sh.
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'

function Stop-Wrong([string]$text) {
    [Console]::Error.WriteLine("test-events: $text")
    exit 2
}

function Get-Setting([string]$name, [string]$default) {
    $value = [Environment]::GetEnvironmentVariable($name)
    if ([string]::IsNullOrEmpty($value)) { return $default }
    return $value
}

if ($args.Count -gt 0) {
    if ($args[0] -notin '-h', '--help') {
        Stop-Wrong "there is no option $($args[0]); --help says what there is"
    }
    foreach ($line in Get-Content -LiteralPath $PSCommandPath |
            Select-Object -Skip 3) {
        if (-not $line.StartsWith('#')) { break }
        $line -replace '^# ?', ''
    }
    exit 0
}
if ($PSVersionTable.PSVersion.Major -lt 7) {
    Stop-Wrong 'this needs PowerShell 7'
}

$url = (Get-Setting 'GATEWAY_URL' 'http://localhost:8080') -replace '/$', ''
$brokers = Get-Setting 'KAFKA_BROKERS' 'localhost:9092'
$topic = Get-Setting 'KAFKA_TOPIC' 'usage-events'
$path = Get-Setting 'TEST_PATH' '/'
$health = Get-Setting 'HEALTH_PATH' '/healthz'
$wait = Get-Setting 'TEST_WAIT' '15'
$key = Get-Setting 'API_KEY' ''
if ($key -eq '') { Stop-Wrong 'API_KEY must be a key of the gateway' }
if ($key -match '[\s\p{Cc}]') {
    Stop-Wrong 'API_KEY has a space or control character'
}
if ("$path$health" -match '[\s"\\]') {
    Stop-Wrong 'TEST_PATH and HEALTH_PATH: a path, please'
}
if ($wait -notmatch '^[0-9]+$') {
    Stop-Wrong "TEST_WAIT=${wait}: seconds, please"
}
if (-not (Get-Command kcat -CommandType Application `
            -ErrorAction SilentlyContinue)) {
    Stop-Wrong 'kcat is not installed'
}

# --- what is said ------------------------------------------------------------

$script:passed = 0
$script:failed = 0
function Write-Passed([string]$text) {
    $script:passed++
    "PASSED  $text"
}
function Write-Failed([string]$text) {
    $script:failed++
    "FAILED  $text"
}

# --- the tools ---------------------------------------------------------------

# kcat's configuration: a look must not make the topic.
$config = [IO.Path]::GetTempFileName() # only its owner reads it
$lines = @('allow.auto.create.topics=false', 'log_level=0')
$lines += (Get-Setting 'KAFKA_OPTIONS' '') -split '\s+' |
    ForEach-Object { $_ -creplace '^-X', '' } |
    Where-Object { $_ -ne '' }

# kcat would try for ever where it can't reach a broker.
$script:kcatSaid = ''
function Invoke-Kcat([string[]]$arguments) {
    $start = [Diagnostics.ProcessStartInfo]::new('kcat')
    foreach ($word in @('-F', $config, '-b', $brokers) + $arguments) {
        $start.ArgumentList.Add($word)
    }
    $start.RedirectStandardOutput = $true
    $start.RedirectStandardError = $true
    $start.RedirectStandardInput = $true
    $start.StandardOutputEncoding = [Text.Encoding]::UTF8
    $process = [Diagnostics.Process]::Start($start)
    $process.StandardInput.Close()
    $output = $process.StandardOutput.ReadToEndAsync()
    $errors = $process.StandardError.ReadToEndAsync()
    if (-not $process.WaitForExit(30000)) { $process.Kill() }
    $process.WaitForExit()
    $script:kcatSaid = $errors.Result -split '\r?\n' |
        Where-Object { $_ -ne '' -and $_ -notmatch '^% Reading config' } |
        Select-Object -Last 1
    return [pscustomobject]@{
        Ok = $process.ExitCode -eq 0
        Lines = @($output.Result -split '\r?\n' | Where-Object { $_ -ne '' })
    }
}

# Partition to offset; -1: the end, -2: the first.
function Get-Offset([int]$which) {
    $arguments = @('-Q')
    for ($n = 0; $n -lt $script:partitions; $n++) {
        $arguments += '-t', "${topic}:${n}:$which"
    }
    $found = @{}
    foreach ($line in (Invoke-Kcat $arguments).Lines) {
        if ($line -match '\[([0-9]+)\] offset ([0-9]+)$') {
            $found[[int]$Matches[1]] = [long]$Matches[2]
        }
    }
    return $found
}

function Get-Total([hashtable]$offsets) {
    $sum = [long]0
    foreach ($offset in $offsets.Values) { $sum += $offset }
    return $sum
}

# --- requests ----------------------------------------------------------------

# One request: its id and status, or what went wrong. Also run by the threads
# of a burst, so it gets all it needs.
$ask = {
    param($target, $key)
    try {
        $answer = Invoke-WebRequest -Uri $target -TimeoutSec 30 `
            -SkipHttpErrorCheck -SkipHeaderValidation -MaximumRedirection 0 `
            -ErrorAction SilentlyContinue `
            -Headers @{ Authorization = "Bearer $key" }
        $id = $answer.Headers['X-Request-Id'] | Select-Object -First 1
        [pscustomobject]@{
            Id = $id; Status = [int]$answer.StatusCode; Why = ''
        }
    }
    catch {
        [pscustomobject]@{
            Id = $null; Status = 0; Why = $_.Exception.Message
        }
    }
}

# "200: 9, 502: 1"
function Get-StatusText($answers) {
    $groups = $answers | Group-Object -Property Status |
        Sort-Object -Property Name
    return ($groups | ForEach-Object { "$($_.Name): $($_.Count)" }) -join ', '
}

# --- events ------------------------------------------------------------------

# Values since the start, up to now. All events of one key are in one
# partition, so after the first only that one is read.
$script:only = -1
function Get-SinceStart {
    $now = Get-Offset -1
    foreach ($p in $now.Keys) {
        if (-not $script:before.ContainsKey($p)) { continue }
        $from = $script:before[$p]
        if ($now[$p] -le $from) { continue }
        if ($script:only -ge 0 -and $script:only -ne $p) { continue }
        $read = Invoke-Kcat @('-C', '-t', $topic, '-p', "$p", '-o', "$from",
            '-c', "$($now[$p] - $from)", '-e', '-q', '-f', '%s\n')
        foreach ($line in $read.Lines) {
            [pscustomobject]@{ Partition = $p; Value = $line }
        }
    }
}

# Look until each request has its event, as long as TEST_WAIT says.
function Find-Event($answers) {
    $status = @{}
    foreach ($answer in $answers) { $status[$answer.Id] = $answer.Status }
    $began = [DateTime]::UtcNow
    while ($true) {
        $seen = @{}
        $events = @()
        $twice = 0
        $wrong = 0
        foreach ($record in Get-SinceStart) {
            if ($record.Value -notmatch '"request_id":"([0-9a-f-]*)"') {
                continue
            }
            $id = $Matches[1]
            if (-not $status.ContainsKey($id)) { continue }
            if ($seen.ContainsKey($id)) {
                $twice++
                continue
            }
            $seen[$id] = $true
            $events += $record
            $text = '"status_code":' + $status[$id] + ','
            if (-not $record.Value.Contains($text)) { $wrong++ }
        }
        $took = ([DateTime]::UtcNow - $began).TotalSeconds
        if ($seen.Count -ge $status.Count -or $took -ge [int]$wait) { break }
        Start-Sleep -Milliseconds 300
    }
    return [pscustomobject]@{
        Events = $events; Found = $seen.Count; Twice = $twice; Wrong = $wrong
    }
}

# Judge the answers of a step, and its events.
$script:sent = @()
$script:good = $false
function Test-Step([string]$name, [int]$count, $all) {
    $script:good = $false
    $answers = @($all | Where-Object { $_.Id })
    $n = $answers.Count
    $script:sent += $answers
    if ($n -eq 0) {
        $why = @($all)[0].Why
        return Write-Failed "${name}: no answer with an X-Request-Id; $why"
    }
    $said = "answers with an X-Request-Id: $n of $count " +
        "($(Get-StatusText $answers))"
    if (@($answers | Where-Object { $_.Status -ne 401 }).Count -eq 0) {
        return Write-Failed "${name}: turned away (401); is API_KEY right?"
    }
    if (-not $script:kafkaOk) {
        return Write-Failed "${name}: $said, but Kafka can't be looked into"
    }
    $result = Find-Event $answers
    $said += "; events: $($result.Found)"
    if ($result.Found -lt $n) {
        return Write-Failed "${name}: $said within $wait s"
    }
    if ($result.Twice -gt 0) {
        return Write-Failed "${name}: $said; repeated: $($result.Twice)"
    }
    if ($result.Wrong -gt 0) {
        return Write-Failed ("${name}: $said; with another status than the " +
            "answer: $($result.Wrong)")
    }
    if ($n -lt $count -or
        @($answers | Where-Object { $_.Status -ge 500 }).Count -gt 0) {
        return Write-Failed "${name}: $said"
    }
    $script:good = $true
    $script:only = $result.Events[0].Partition
    return Write-Passed "${name}: $said"
}

# --- the steps ---------------------------------------------------------------

function Test-Kafka {
    $name = '1. health of Kafka'
    $metadata = Invoke-Kcat @('-L', '-t', $topic, '-m', '10')
    if (-not $metadata.Ok) {
        return Write-Failed "${name}: it doesn't answer; $script:kcatSaid"
    }
    $count = 0
    $without = 0
    foreach ($line in $metadata.Lines) {
        if ($line -match '^ ([0-9]+) brokers:$') { $count = [int]$Matches[1] }
        if ($line -match '^  topic "[^"]*" with ([0-9]+) partitions:') {
            $script:partitions = [int]$Matches[1]
        }
        if ($line -match '^    partition [0-9]+, leader -1') { $without++ }
    }
    if ($script:partitions -eq 0) {
        return Write-Failed ("${name}: there is no topic $topic " +
            '(usagectl init-kafka makes it)')
    }
    if ($without -gt 0) {
        return Write-Failed ("${name}: partitions: $script:partitions, " +
            "without a leader: $without")
    }
    $script:before = Get-Offset -1
    if ($script:before.Count -ne $script:partitions) {
        return Write-Failed ("${name}: the topic can't be read; " +
            $script:kcatSaid)
    }
    $script:kafkaOk = $true
    return Write-Passed ("${name}: brokers: $count, " +
        "partitions: $script:partitions")
}

function Test-Gateway {
    $name = '2. health of the gateway'
    try {
        $answer = Invoke-WebRequest -Uri "$url$health" -TimeoutSec 30 `
            -SkipHttpErrorCheck -SkipHeaderValidation -MaximumRedirection 0 `
            -ErrorAction SilentlyContinue
        $code = [int]$answer.StatusCode
    }
    catch {
        return Write-Failed ("${name}: it doesn't answer; " +
            $_.Exception.Message)
    }
    if ($code -ge 500) {
        return Write-Failed "${name}: $health is answered with $code"
    }
    $script:gatewayOk = $true
    return Write-Passed "${name}: $health is answered with $code"
}

function Test-Whole {
    $name = '6. messages before and after'
    $result = Find-Event $script:sent
    $script:ours = $result.Events
    $first = Get-Total $script:before
    $script:after = Get-Offset -1
    $last = Get-Total $script:after
    $said = "$first, then $last; requests: $($script:sent.Count), " +
        "events: $($result.Found), repeated: $($result.Twice)"
    if ($script:sent.Count -eq 111 -and $result.Found -eq 111 -and
        $result.Twice -eq 0 -and $last - $first -ge 111) {
        return Write-Passed "${name}: $said"
    }
    return Write-Failed "${name}: $said"
}

function Test-Size {
    $name = '7. size of the topic'
    $first = Get-Offset -2
    if ($script:after.Count -ne $script:partitions -or
        $first.Count -ne $script:partitions) {
        return Write-Failed "${name}: Kafka doesn't answer any more"
    }
    $kept = (Get-Total $script:after) - (Get-Total $first)
    $said = "messages: $kept, partitions: $script:partitions"
    $bytes = [long]0
    foreach ($record in $script:ours) {
        $bytes += [Text.Encoding]::UTF8.GetByteCount($record.Value)
    }
    if ($bytes -gt 0) {
        $each = [Math]::Floor($bytes / $script:ours.Count)
        $kib = [Math]::Floor($kept * $each / 1024)
        $said += ", about $kib KiB of values"
    }
    return Write-Passed "${name}: $said"
}

function Test-Sample {
    $name = '8. sample events'
    $form = '"request_id":"[^"]*","organization_id":"[^"]*",' +
        '"api_key_id":"[^"]*","endpoint":".*","method":"[^"]*",' +
        '"status_code":[0-9]*,"response_time_ms":[0-9]*,' +
        '"timestamp":"[^"]*","billable":(true|false)'
    $fit = @($script:ours | Where-Object { $_.Value -match $form }).Count
    if ($fit -gt 0 -and $fit -eq $script:ours.Count) {
        Write-Passed "${name}: all of ours have the nine fields"
    }
    else {
        Write-Failed ("${name}: with the nine fields: $fit of " +
            $script:ours.Count)
    }
    $script:ours | Select-Object -First 3 | ForEach-Object { "  $($_.Value)" }
}

$script:kafkaOk = $false
$script:gatewayOk = $false
$script:partitions = 0
$script:before = @{}
$script:after = @{}
$script:ours = @()
try {
    [IO.File]::WriteAllLines($config, [string[]]$lines)
    "gateway $url, Kafka $brokers, topic $topic"
    Test-Kafka
    Test-Gateway

    $goOn = $false
    if (-not $script:gatewayOk) {
        Write-Failed "3. one request: not tried, the gateway doesn't answer"
    }
    else {
        Test-Step '3. one request' 1 @(& $ask "$url$path" $key)
        $goOn = $script:good
    }

    if (-not $goOn) {
        Write-Failed '4. burst of 10: not tried, since one request failed'
        Write-Failed '5. batch of 100: not tried, since one request failed'
    }
    else {
        $text = $ask.ToString()
        $target = "$url$path"
        $answers = @(1..10 | ForEach-Object -ThrottleLimit 10 -Parallel {
                & ([scriptblock]::Create($using:text)) $using:target `
                    $using:key
            })
        Test-Step '4. burst of 10' 10 $answers
        $answers = @(1..100 | ForEach-Object { & $ask "$url$path" $key })
        Test-Step '5. batch of 100' 100 $answers
    }

    if (-not $script:kafkaOk) {
        foreach ($step in '6. messages before and after',
            '7. size of the topic', '8. sample events') {
            Write-Failed "${step}: Kafka can't be looked into"
        }
    }
    else {
        Test-Whole
        Test-Size
        Test-Sample
    }
}
finally {
    Remove-Item -LiteralPath $config -Force
}

"$script:passed passed, $script:failed failed"
exit [int]($script:failed -gt 0)
